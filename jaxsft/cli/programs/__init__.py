"""The programs of jaxsft, a file each: its flags, `main` and `start`, which ends the process."""
