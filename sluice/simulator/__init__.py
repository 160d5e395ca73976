"""Trace replay on simulated instances under the product's own policies: what would this fleet attain?"""
