"""What each paper printed of its evaluation, and what of ours stands for it (docs/papers.md 7)."""

from typing import NamedTuple


class Protocol(NamedTuple):
    """One evaluation.

    title:    of its report
    columns:  the paper's names of its scores, and for each ours: the first column that begins so, of several the
              first that is there
    printed:  the paper's rows: a method and its scores, as printed
    unknown:  what the paper leaves open, so that its figures and ours are only roughly comparable
    prompts:  the list of `prompts.json` that stands for the paper's own
    ending:   what is put behind every prompt, for all methods
    """

    title: str
    columns: dict[str, str]
    printed: tuple[tuple, ...] = ()
    unknown: str = ""
    prompts: str = "human"
    ending: str = ""


_F2D = ("AdaFace", "SphereFace", "FaceNet", "CLIP", "dCLIP", "SigLIP", "hMean", "gMean")
_F2D_OURS = ("identity adaface", "identity sphereface", "identity facenet", "text clip l14|text clip",
             "dCLIP l14|dCLIP", "text siglip", "hMean", "gMean")  # fmt: skip
PROTOCOLS = {
    "fact-t2i": Protocol(
        "FACT, text to image",
        {"CLIP-T": "text clip", "CLIP-I": "clip b32-i|clip", "Face Sim": "identity", "FID": "FID"},
        (("FACT", "29.5 %", "71.8 %", "80.6 %", 176.5),),
        "networks, people, prompts, seeds and what FID was taken against",
        "fact",
    ),
    "fact-inpaint": Protocol(
        "FACT, inpainting",
        {
            "E-Exp": "expression_l2", "E-Light": "light_l2", "E-Pose": "pose_mse", "E-Shape": "shape_l2",
            "Face Sim": "identity", "CLIP-I": "clip b32-i|clip", "FID": "FID",
        },
        (("FACT", 3.06, 0.282, 0.00576, 6.26, "78.2 %", "73.3 %", 30.4),),
        "networks, people and the norm of the distances: three are plausible as L2, the pose as a mean of squares",
        "fact",
    ),
    "face2diffusion": Protocol(
        "Face2Diffusion",
        dict(zip(_F2D, _F2D_OURS)),
        (
            ("Textual Inversion", .1654, .2518, .3197, .1877, .1075, .1283, .0320, .0575),
            ("DreamBooth", .3482, .4084, .4774, .2351, .1480, .3452, .0689, .1116),
            ("Custom Diffusion", .4537, .5624, .6458, .2023, .1490, .2182, .1078, .1700),
            ("Perfusion", .0925, .1478, .1887, .2490, .1686, .3433, .0342, .0575),
            ("E4T", .0433, .1190, .1725, .2510, .1784, .2671, .0370, .0589),
            ("Celeb Basis", .1601, .2724, .3762, .2563, .1847, .3624, .1138, .1542),
            ("FastComposer", .1736, .3271, .4725, .2495, .2149, .3168, .1655, .2120),
            ("ELITE", .0924, .1925, .3232, .1755, .1250, .0671, .0308, .0624),
            ("DreamIdentity", .2847, .4252, .5523, .1924, .1463, .1539, .0849, .1326),
            ("Face2Diffusion", .3143, .4215, .5313, .2486, .2020, .3856, .1749, .2252),
        ),
        "which AdaFace, CLIP and SigLIP, the detector and the 40 prompts; 100 people, 4 pictures a prompt",
    ),
    "infinite-id": Protocol(
        "Infinite-ID",
        {"CLIP-T": "text clip", "CLIP-I": "clip b32-i|clip", "M_FaceNet": "identity facenet"},
        (
            ("FastComposer", .292, .887, .556), ("IP-Adapter", .274, .905, .474), ("IP-Adapter-Face", .313, .919, .513),
            ("PhotoMaker", .343, .814, .502), ("Infinite-ID", .340, .913, .689),
        ),
        "people, prompts, detector and CLIP's variant",
    ),
    "facea": Protocol(
        "FaceA-Net",
        {
            "CLIP-T": "text clip l14|text clip", "CLIP-I": "clip l14-i|clip", "DINO": "dino-i",
            "Face Sim": "identity facenet",
        },
        (
            ("Celeb Basis", "21.5 %", "66.6 %", "35.0 %", "45.9 %"),
            ("IP-Adapter", "22.2 %", "70.9 %", "36.8 %", "62.7 %"),
            ("PhotoMaker", "21.8 %", "67.9 %", "37.9 %", "56.3 %"),
            ("InstantID", "23.8 %", "63.5 %", "33.3 %", "70.0 %"),
            ("FaceA-Net", "23.3 %", "64.8 %", "35.5 %", "70.7 %"),
        ),
        "CLIP's variant, pictures of a pair, detector and prompts; 28 people with 3 photos each, compared with others",
        "facea",
        "front face",
    ),
    "stress": Protocol("Whom it serves worst", {}),
}  # fmt: skip
