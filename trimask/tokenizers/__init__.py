"""Raw content to integer codes and back: text, pictures, sound; their training and their quality."""
