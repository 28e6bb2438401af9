"""Operations on this machine, which cost nothing, and functions of the user's own."""
