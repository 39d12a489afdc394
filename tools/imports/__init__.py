"""What imports what in this repository."""
