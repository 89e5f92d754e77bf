// A photo with a square box: drag it to move it, its corner to resize it; arrow keys and + − do the same.

function make(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const photo = make("img", { alt: "uploaded photo", draggable: false });
  const handle = make("div", { className: "handle" });
  const frame = make("div", { className: "box", tabIndex: 0, role: "slider" }, [handle]);
  const stage = make("div", { className: "crop-box" }, [photo, frame]);
  let box = [], from = null;

  const show = () => {
    const [width, height] = model.get("size"), [left, top, right, bottom] = box;
    const percent = (value, of) => `${(100 * value) / of}%`;
    Object.assign(frame.style, {
      left: percent(left, width), top: percent(top, height), width: percent(right - left, width),
      height: percent(bottom - top, height), transform: `rotate(${model.get("turn")}deg)`,
    });
    frame.ariaLabel = "crop of the photo; arrow keys move it, plus and minus resize it";
    frame.ariaValueNow = Math.round(right - left);
    frame.ariaValueText = `${Math.round(right - left)} pixels at ${Math.round(left)}, ${Math.round(top)}`;
  };
  const place = (left, top, side) => { // inside the photo
    const [width, height] = model.get("size");
    side = Math.min(Math.max(side, model.get("smallest")), width, height);
    left = Math.min(Math.max(left, 0), width - side);
    top = Math.min(Math.max(top, 0), height - side);
    box = [left, top, left + side, top + side];
    show();
  };
  const save = () => {
    model.set("box", box);
    model.save_changes();
  };
  const read = () => {
    box = model.get("box");
    photo.src = model.get("photo");
    stage.style.width = `${model.get("screen_width")}px`;
    stage.style.aspectRatio = model.get("size").join(" / "); // at its place before the photo is loaded
    show();
  };
  const at = (event) => {
    const area = stage.getBoundingClientRect(), scale = model.get("size")[0] / area.width;
    return [(event.clientX - area.left) * scale, (event.clientY - area.top) * scale];
  };
  frame.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    frame.focus({ preventScroll: true });
    frame.setPointerCapture(event.pointerId);
    from = { at: at(event), box, resizes: event.target === handle };
  });
  frame.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [x, y] = at(event), [left, top, right] = from.box, dx = x - from.at[0], dy = y - from.at[1];
    if (!from.resizes) return place(left + dx, top + dy, right - left);
    const [width, height] = model.get("size"), most = Math.min(width - left, height - top);
    place(left, top, Math.min(most, right - left + Math.max(dx, dy)));
  });
  frame.addEventListener("pointerup", () => {
    if (from && from.box !== box) save();
    from = null;
  });
  frame.addEventListener("pointercancel", () => (from = null));
  frame.addEventListener("keydown", (event) => {
    const by = model.get("size")[0] / 50, [left, top, right] = box, side = right - left;
    const moves = { ArrowLeft: [-by, 0, 0], ArrowRight: [by, 0, 0], ArrowUp: [0, -by, 0], ArrowDown: [0, by, 0],
      "+": [-by / 2, -by / 2, by], "-": [by / 2, by / 2, -by] };
    if (!moves[event.key]) return;
    const [x, y, more] = moves[event.key];
    place(left + x, top + y, side + more);
    save();
    event.preventDefault();
    event.stopPropagation();
  });
  stage.dataset.lmSuppressShortcuts = "true";
  for (const name of ["photo", "box", "turn"]) model.on(`change:${name}`, read);
  read();
  el.append(stage);
  return () => {
    for (const name of ["photo", "box", "turn"]) model.off(`change:${name}`, read);
  };
}
export default { render };
