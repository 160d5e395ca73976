"""Who serves what: snapshots in, decisions out. Filters, then scorers, then a picker; and admission. Pure."""
