"""Where workloads come from: public trace formats, generators, and requests made up by knobs."""
