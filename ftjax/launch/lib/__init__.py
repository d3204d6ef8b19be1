"""What launchers have in common: jobs, what is submitted, spaces to search, results."""
