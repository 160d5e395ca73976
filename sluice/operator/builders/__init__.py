"""Pure builders: an accepted ModelService in, manifests out; golden files in the tests show each."""
