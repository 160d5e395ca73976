"""GPU classes and their capability curves: how long a step, a prefill or a transfer takes where."""
