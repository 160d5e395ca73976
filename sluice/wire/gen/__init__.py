"""Generated from sluice.proto by `make proto`; never edited by hand."""
