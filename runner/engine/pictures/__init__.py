"""Input pictures, and the masks, edge maps and depth maps that are made from them."""
