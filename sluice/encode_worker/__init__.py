"""What only encode does: prepare pictures, encode them, and hand their embeddings to who reads them."""
