"""Text in and out: tokenizer, chat template, incremental detokenization, stop strings. Needs no torch."""
