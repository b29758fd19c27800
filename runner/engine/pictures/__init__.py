"""Input pictures: opened safely, and what is made of them: masks, edges, depth."""
