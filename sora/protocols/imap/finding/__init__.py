"""Finding messages: SEARCH, SORT, THREAD, and what extensions ask of them."""
