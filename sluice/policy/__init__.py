"""Who serves what: filters, scorers, a picker, admission. Pure; the same code runs in the router and in simulators."""
