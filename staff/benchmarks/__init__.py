"""Benches: each is a module with PARTS, functions from ``common.Settings`` to rows of figures."""

BENCHES = {  # name: its title; "-" is "_" in the module's name
    "generator": "Generator forward and backward; inversions together against one by one",
    "inversion": "Inversion against the plain projector loop; starts",
    "noise": "Noise maps",
    "blend": "Blends",
    "sketch": "Sketches",
    "style": "Style transfer",
    "full-size": "Full size: memory and steps per second",
    "grade": "Grading one submission",
    "weights": "Figures of the model cards",
}
OF_FACES = ("inversion", "noise", "blend", "sketch", "weights")  # those that need --data
