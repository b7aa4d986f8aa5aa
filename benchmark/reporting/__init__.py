"""From stored runs to tables for readers. Needs neither torch nor a GPU."""
