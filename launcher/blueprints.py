"""Fold a part of a graph into a subgraph: one node for it in templates, and the blueprint that node search offers.

A blueprint is made of a workflow's editor form: "nodes" are the ids that go inside; "inputs" says for each socket or
widget that the node shows its name, label and the inner inputs it leads to; "outputs" its name and the inner output.
"""

import uuid

INPUT_SIDE, OUTPUT_SIDE = -10, -20  # the editor's ids of a subgraph's two ends


def fold(graph: dict, name: str, blueprint: dict, node_id: int) -> dict:
    """Replace the inner nodes of a graph in editor form by one node `node_id`; returns that node.

    The graph's links (6-tuples) to and from inner nodes then lead to the node, and `graph["definitions"]` holds the
    inside. A promoted widget's value stands on the node; the inner one is the same.
    """
    inner_ids = set(blueprint["nodes"])
    nodes = {node["id"]: node for node in graph["nodes"]}
    definition = _define(name, blueprint, [nodes[key] for key in blueprint["nodes"]])
    outside, next_link = [], graph["last_link_id"] + 1
    for link in graph["links"]:
        link_id, origin, slot, target, target_slot, kind = link
        if origin in inner_ids and target in inner_ids:
            definition["links"].append(_link(link_id, origin, slot, target, target_slot, kind))
        elif origin not in inner_ids and target not in inner_ids:
            outside.append(link)
    instance = _instance(definition, name, node_id)
    for slot, (_, label, *targets) in enumerate(blueprint["inputs"]):
        sockets = [(nodes[key], _index(nodes[key]["inputs"], socket)) for key, socket in targets]
        first = sockets[0][0]["inputs"][sockets[0][1]]
        entering = next((link for link in graph["links"] if link[0] == first["link"]), None)
        shown = {"name": blueprint["inputs"][slot][0], "type": first["type"], "label": label, "link": None}
        if "widget" in first:
            shown["widget"] = {"name": shown["name"]}
            instance["widgets_values"].append(_value(sockets[0][0], first["widget"]["name"]))
        if entering:
            outside.append([next_link, entering[1], entering[2], node_id, slot, first["type"]])
            _relink(nodes[entering[1]]["outputs"][entering[2]], inner_ids, graph["links"], next_link)
            shown["link"], next_link = next_link, next_link + 1
        instance["inputs"].append(shown)
        ids = []
        for node, index in sockets:
            ids.append(next_link)
            node["inputs"][index]["link"] = next_link
            definition["links"].append(_link(next_link, INPUT_SIDE, slot, node["id"], index, first["type"]))
            next_link += 1
        definition["inputs"].append(_socket(name, shown, ids))
    for slot, (output, label, key, index) in enumerate(blueprint["outputs"]):
        source = nodes[key]["outputs"][index]
        leaving = [link for link in graph["links"] if link[0] in (source["links"] or []) and link[3] not in inner_ids]
        ids = [link[0] for link in leaving]
        outside += [[link[0], node_id, slot, *link[3:]] for link in leaving]
        instance["outputs"].append({"name": output, "type": source["type"], "label": label, "links": ids})
        definition["links"].append(_link(next_link, key, index, OUTPUT_SIDE, slot, source["type"]))
        source["links"] = [link for link in source["links"] or [] if link not in ids] + [next_link]
        definition["outputs"].append(_socket(name, instance["outputs"][-1], [next_link]))
        next_link += 1
    definition["state"]["lastLinkId"] = next_link - 1
    graph["nodes"] = [node for key, node in nodes.items() if key not in inner_ids] + [instance]
    graph["links"], graph["last_link_id"] = outside, next_link - 1
    graph["last_node_id"] = max(graph["last_node_id"], node_id)
    graph["definitions"] = {"subgraphs": [definition]}
    return instance


def to_blueprint(graph: dict, instance: dict, description: str) -> dict:
    """Return the file for `subgraphs/`: a folded graph's node alone, as the host offers it."""
    alone = instance | {"id": 1, "pos": [0, 0], "order": 0}
    alone["inputs"] = [socket | {"link": None} for socket in instance["inputs"]]
    alone["outputs"] = [socket | {"links": []} for socket in instance["outputs"]]
    return {
        "revision": 0, "last_node_id": 1, "last_link_id": 0, "version": 0.4, "config": {}, "links": [], "groups": [],
        "extra": {"BlueprintDescription": description}, "nodes": [alone], "definitions": graph["definitions"],
    }  # fmt: skip


def _define(name: str, blueprint: dict, nodes: list[dict]) -> dict:
    return {
        "id": _uuid(name), "version": 1, "revision": 0, "config": {}, "name": name, "category": "Likeness",
        "description": blueprint["description"], "extra": {},
        "state": {"lastGroupId": 0, "lastNodeId": max(blueprint["nodes"]), "lastLinkId": 0, "lastRerouteId": 0},
        "inputNode": {"id": INPUT_SIDE, "bounding": [0, 0, 140, 40 + 20 * len(blueprint["inputs"])]},
        "outputNode": {"id": OUTPUT_SIDE, "bounding": [0, 0, 140, 40 + 20 * len(blueprint["outputs"])]},
        "inputs": [], "outputs": [], "widgets": [], "groups": [], "nodes": nodes, "links": [],
    }  # fmt: skip


def _instance(definition: dict, name: str, node_id: int) -> dict:
    return {
        "id": node_id, "type": definition["id"], "title": name, "pos": [0, 0], "size": [0, 0], "flags": {}, "order": 0,
        "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": [],
    }  # fmt: skip


def _link(link_id: int, origin: int, slot: int, target: int, target_slot: int, kind: str) -> dict:
    return {
        "id": link_id, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": target_slot,
        "type": kind,
    }  # fmt: skip


def _socket(name: str, shown: dict, ids: list[int]) -> dict:
    keys = {key: shown[key] for key in ("name", "type", "label")}
    return {"id": _uuid(f"{name}/{shown['name']}"), **keys, "linkIds": ids}


def _relink(output: dict, inner_ids: set[int], links: list, new: int) -> None:
    """Give an outer output the link to the node instead of those to inner nodes."""
    inside = {link[0] for link in links if link[3] in inner_ids}
    output["links"] = [link for link in output["links"] if link not in inside] + [new]


def _index(sockets: list[dict], name: str) -> int:
    return next(i for i, socket in enumerate(sockets) if socket["name"] == name)


def _value(node: dict, widget: str):
    """Return the value of a node's widget; the editor saves them in the order of the widgets, with a seed's control."""
    return node["widgets_values"][node["widget_names"].index(widget)]


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-likeness/{name}"))
