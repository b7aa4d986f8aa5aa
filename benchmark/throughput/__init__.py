"""How fast and with how much memory raw tables of the real size go through: made tables, and the measurement."""
