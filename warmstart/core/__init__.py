"""What every room needs: errors, programs, temporary places, progress."""
