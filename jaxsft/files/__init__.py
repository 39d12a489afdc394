"""Files and places: disks and buckets that fail, files that are whole, files that others made."""
