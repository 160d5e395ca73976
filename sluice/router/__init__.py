"""The router: clients in front, workers behind; owns text, admission, placement and every sequence's epoch."""
