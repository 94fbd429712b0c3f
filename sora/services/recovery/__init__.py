"""Getting it back: the journal, the database built anew from it, and proving that nothing is missing."""
