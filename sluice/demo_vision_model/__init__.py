"""The small model that sees, its pictures and questions: files only. examples/demo_vision_model made them."""
