"""What answers requests inside a server's worker process, whichever server that is."""
