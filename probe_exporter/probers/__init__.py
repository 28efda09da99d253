"""The probers of this package, one file each."""
