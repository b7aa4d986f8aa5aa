"""From a configuration to finished run folders: plan the jobs, execute each, keep what it found, collect it again."""
