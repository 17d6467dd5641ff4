"""The programs: one file each, named as the program is called."""
