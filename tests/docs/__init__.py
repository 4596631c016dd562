"""What checks the blocks of code on the pages: a module for each language."""
