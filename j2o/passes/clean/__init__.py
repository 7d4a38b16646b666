"""What leaves less and changes nothing: folding, algebra, shapes, equal and dead nodes."""
