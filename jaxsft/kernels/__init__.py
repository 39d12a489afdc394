"""Back ends of attention and cross-entropy, behind one signature each."""
