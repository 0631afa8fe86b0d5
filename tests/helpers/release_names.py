"""The scenes of releases of planes; HPatches' by hpatches-benchmark, ``python/utils/splits.json``."""

_ILLUMINATION = """
ajuntament autannes bologna books boutique bridger brooklyn castle chestnuts contruction crownday
crownnight dc dome duda fenis fog fruits gonnenberg greenhouse greentea indiana kions ktirio kurhaus
leuven lionday lionnight londonbridge melon miniature nescafe nijmegen nuts objects parking
partyfood pencils pinard pool porta resort salon santuario school ski smurf steps table tools toy
troulos veggies village whitebuilding yellowtent zion
"""
_VIEWPOINT = """
abstract adam apprentices artisans astronautis azzola bark bees beyus bip bird birdwoman blueprint
boat bricks busstop calder cartooncity charing churchill circus coffeehouse colors courses dirtywall
dogman eastsouth feast fest gardens grace graffiti home laptop london machines man maskedman
pomegranate posters samples soldiers strand sunseason tabletop talent tempera there underground
vitro wall wapping war weapons woman wormhole wounded yard yuri
"""
_EVD = "adam cafe cat dum face fox girl graf grand index mag pkk shop there vin"
_HOMOGR = """Boston BostonLib BruggeSquare BruggeTower Brussels CapitalRegion Eiffel ExtremeZoom LePoint1
LePoint2 LePoint3 WhiteBoard adam boat city graf"""
_OXFORD = "bark boat bikes graf leuven trees ubc wall"
SCENES = {
    "hpatches": [
        *(f"i_{name}" for name in _ILLUMINATION.split()),
        *(f"v_{name}" for name in _VIEWPOINT.split()),
    ],
    "evd": _EVD.split(),
    "homogr": _HOMOGR.split(),
    "oxford": _OXFORD.split(),
}
