"""The demo model's files: what `sluice up` and `sluice demo` serve when no model is named.

Package data only. How it was made and how well it answers: examples/demo_model/README.md.
"""
