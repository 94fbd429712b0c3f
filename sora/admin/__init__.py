"""Operations of an administrator, defined once for the command line and HTTP (floor 4)."""
