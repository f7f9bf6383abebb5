"""How results look. Functions from values to lines; printing and colour happen at the end."""
