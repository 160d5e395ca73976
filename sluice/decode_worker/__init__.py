"""What only decode does: admit reservations, check what arrived, attach."""
