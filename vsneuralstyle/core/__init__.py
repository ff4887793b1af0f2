"""The recurrence: frames of a clip in, stylized frames out."""
