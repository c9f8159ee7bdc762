"""Finding documents that say the same, and remembering which one was kept."""
