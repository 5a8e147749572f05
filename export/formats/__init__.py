"""Engine formats: one file each."""
