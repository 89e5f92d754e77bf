// A drawing canvas. Strokes are drawn here, whether or not the kernel is busy; at the end of each the kernel gets one
// message: the drawing as a PNG in a data URL.

const TOOLS = [["brush", "Brush", "b"], ["lasso", "Lasso", "l"], ["rectangle", "Rectangle", "r"]];
const DEEP = 50; // drawings kept for undo
const LIMIT = 8; // largest zoom
const TINT = [255, 38, 89]; // of a mask: a pink that no fur has

function make(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Gaussian blur of an array, standard deviation sigma pixels; outside, the border's values continue (as masks.feather).
function blur(values, width, height, sigma) {
  const reach = Math.floor(3 * sigma + 0.5);
  if (!reach) return values;
  const taps = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / sigma) ** 2));
  const sum = taps.reduce((a, b) => a + b);
  const pass = (from, count, step, lines, stride) => {
    const to = new Float32Array(from.length);
    for (let line = 0; line < lines; line++)
      for (let i = 0; i < count; i++) {
        let value = 0;
        for (let k = -reach; k <= reach; k++)
          value += taps[k + reach] * from[line * stride + Math.min(Math.max(i + k, 0), count - 1) * step];
        to[line * stride + i * step] = value / sum;
      }
    return to;
  };
  return pass(pass(values, width, 1, height, width), height, width, width, 1);
}

function render({ model, el }) {
  const [height, width] = model.get("size"), masking = model.get("mode") === "mask";
  const layer = make("canvas", { width, height }), before = make("canvas", { width, height });
  const pen = layer.getContext("2d", { willReadFrequently: true }), kept = before.getContext("2d");
  const shown = make("canvas", { width, height, className: "layer" }), view = shown.getContext("2d");
  const photo = make("img", { className: "photo", alt: "", draggable: false });
  const ring = make("div", { className: "ring" });
  const stage = make("div", { className: "stage" }, [photo, shown, ring]);
  const frame = make("div", { className: "frame" }, [stage]);
  let url = null, past = [], future = [], points = null, cutting = false, picking = false, zoom = 1;
  const fingers = new Map();

  // --- drawing
  const copy = () => pen.getImageData(0, 0, width, height);
  const show = () => {
    const image = copy(), data = image.data;
    if (masking) {
      const alpha = Float32Array.from({ length: width * height }, (_, i) => data[4 * i + 3]);
      const soft = blur(alpha, width, height, model.get("feather"));
      for (let i = 0; i < soft.length; i++) {
        [data[4 * i], data[4 * i + 1], data[4 * i + 2]] = TINT;
        data[4 * i + 3] = soft[i];
      }
    }
    view.putImageData(image, 0, 0);
    shown.style.opacity = model.get("opacity");
  };
  const commit = () => {
    url = layer.toDataURL();
    model.set("layer", url);
    model.save_changes();
    refresh();
  };
  const remember = () => {
    past = [...past, copy()].slice(-DEEP);
    future = [];
  };
  const change = (edit) => {
    remember();
    edit();
    show();
    commit();
  };
  const step = (from, to) => {
    if (!from.length || points) return;
    to.push(copy());
    pen.putImageData(from.pop(), 0, 0);
    show();
    commit();
  };
  const undo = () => step(past, future), redo = () => step(future, past);
  const restore = (image) => { // anything drawable takes the whole canvas
    pen.globalCompositeOperation = "copy";
    pen.drawImage(image, 0, 0, width, height);
    pen.globalCompositeOperation = "source-over";
  };
  const trace = () => { // the stroke so far, over what was there before: overlaps and joints count once
    restore(before);
    pen.globalCompositeOperation = cutting ? "destination-out" : "source-over";
    pen.fillStyle = pen.strokeStyle = masking ? "#fff" : model.get("colour");
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = model.get("brush");
    pen.beginPath();
    const [[x, y], [u, v]] = [points[0], points.at(-1)];
    if (model.get("tool") === "rectangle") pen.rect(x, y, u - x, v - y);
    else for (const [s, t] of [[x, y + 0.001], ...points]) pen.lineTo(s, t); // a point alone is a dot
    if (model.get("tool") === "brush") pen.stroke();
    else pen.fill();
    pen.globalCompositeOperation = "source-over";
    show();
  };
  const load = async () => { // what the kernel drew
    const next = model.get("layer");
    if (next === url) return;
    const image = make("img");
    if (next) await Object.assign(image, { src: next }).decode();
    if (model.get("layer") !== next) return; // meanwhile there is a newer one
    if (url !== null) remember();
    points = null;
    url = next;
    if (next) restore(image);
    else pen.clearRect(0, 0, width, height);
    show();
    refresh();
  };
  const open = async (file) => {
    if (!file) return;
    const image = await createImageBitmap(file);
    change(() => {
      restore(image);
      const read = copy(), data = read.data;
      const opaque = data.every((value, i) => i % 4 < 3 || value === 255);
      for (let i = 0; masking && opaque && i < data.length; i += 4)
        data[i + 3] = Math.round((data[i] + data[i + 1] + data[i + 2]) / 3);
      pen.putImageData(read, 0, 0);
    });
  };
  const invert = () => change(() => {
    const image = copy();
    image.data.forEach((value, i) => (image.data[i] = i % 4 < 3 ? 255 : 255 - value));
    pen.putImageData(image, 0, 0);
  });
  const pick = ([x, y]) => { // the colour that is seen there
    const seen = make("canvas", { width, height }).getContext("2d");
    seen.fillStyle = "#fff";
    seen.fillRect(0, 0, width, height);
    if (photo.naturalWidth) seen.drawImage(photo, 0, 0, width, height);
    seen.drawImage(layer, 0, 0);
    const rgb = [...seen.getImageData(Math.floor(x), Math.floor(y), 1, 1).data.slice(0, 3)];
    picking = false;
    set("colour", "#" + rgb.map((value) => value.toString(16).padStart(2, "0")).join(""));
  };

  // --- pointer: mouse, pen and touch; two fingers move and zoom
  const at = (event) => {
    const box = shown.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  const cancel = () => {
    if (points) restore(before);
    points = null;
    show();
  };
  const zoomTo = (value, x, y) => { // the point (x, y) of the page stays where it is
    const box = frame.getBoundingClientRect(), next = Math.min(LIMIT, Math.max(1, value)), ratio = next / zoom;
    const left = (frame.scrollLeft + x - box.left) * ratio, top = (frame.scrollTop + y - box.top) * ratio;
    zoom = next;
    stage.style.width = `${100 * zoom}%`;
    frame.scrollTo(left - x + box.left, top - y + box.top);
    refresh();
  };
  const zoomBy = (factor) => {
    const box = frame.getBoundingClientRect();
    zoomTo(zoom * factor, box.left + box.width / 2, box.top + box.height / 2);
  };
  const span = () => {
    const [a, b] = fingers.values();
    const apart = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    return [apart, (a.clientX + b.clientX) / 2, (a.clientY + b.clientY) / 2];
  };
  const pinch = (event) => {
    const [d, x, y] = span();
    fingers.set(event.pointerId, event);
    const [e, u, v] = span();
    frame.scrollBy(x - u, y - v);
    zoomTo((zoom * e) / d, u, v);
  };
  const follow = (event) => { // the outline of the brush under the mouse
    const [x, y] = at(event), round = model.get("tool") === "brush" && event.pointerType !== "touch" && !picking;
    ring.style.display = round ? "block" : "none";
    ring.style.left = `${(100 * x) / width}%`;
    ring.style.top = `${(100 * y) / height}%`;
    ring.style.width = `${(100 * model.get("brush")) / width}%`;
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 && event.button !== 5) return; // 5: the eraser end of a pen
    event.preventDefault();
    root.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
    if (fingers.size > 1) return cancel();
    if (picking) return pick(at(event));
    cutting = model.get("erase") || event.button === 5;
    kept.globalCompositeOperation = "copy";
    kept.drawImage(layer, 0, 0);
    points = [at(event)];
    trace();
  });
  stage.addEventListener("pointermove", (event) => {
    follow(event);
    if (fingers.size === 2 && fingers.has(event.pointerId)) return pinch(event);
    if (!points || !fingers.has(event.pointerId)) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    points.push(...(moves.length ? moves : [event]).map(at));
    trace();
  });
  const lift = (event) => {
    if (!fingers.delete(event.pointerId) || !points) return;
    points.push(at(event));
    trace();
    points = null;
    past = [...past, kept.getImageData(0, 0, width, height)].slice(-DEEP);
    future = [];
    commit();
  };
  stage.addEventListener("pointerup", lift);
  stage.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId) && cancel());
  stage.addEventListener("pointerleave", () => (ring.style.display = "none"));
  frame.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomTo(zoom * 1.002 ** -event.deltaY, event.clientX, event.clientY);
  });

  // --- controls
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
    refresh();
  };
  const button = (text, title, onclick) => make("button", { textContent: text, title, onclick, type: "button" });
  const slider = (name, text, min, max, by) => {
    const input = make("input", { type: "range", min, max, step: by }), number = make("output");
    input.oninput = () => {
      model.set(name, Number(input.value));
      number.value = input.value;
    };
    input.onchange = () => model.save_changes(); // the kernel hears of it when the handle is released
    const read = () => {
      input.value = model.get(name);
      number.value = model.get(name);
    };
    return { node: make("label", {}, [make("span", { textContent: text }), input, number]), read };
  };
  const tools = TOOLS.map(([name, text, key]) => [name, button(text, `${text} (${key.toUpperCase()})`, () => set("tool", name))]);
  const eraser = button("Eraser", "Erase with this tool (E)", () => set("erase", !model.get("erase")));
  const undoing = button("Undo", "Undo (Ctrl+Z)", undo), redoing = button("Redo", "Redo (Ctrl+Shift+Z)", redo);
  const clear = button("Clear", "Erase everything", () => change(() => pen.clearRect(0, 0, width, height)));
  const inverting = button("Invert", "Swap inside and outside (I)", invert);
  const picker = button("Pick", "Pick a colour from the image", () => {
    picking = !picking;
    refresh();
  });
  const colour = make("input", { type: "color", title: "Colour", onchange: () => set("colour", colour.value) });
  const swatches = make("span", { className: "swatches" });
  const file = make("input", { type: "file", accept: "image/*", hidden: true });
  file.onchange = () => open(file.files[0]).catch(() => (note.textContent = `${file.files[0].name} is not an image.`));
  const opening = button("Open", "Read an image file into the drawing", () => file.click());
  const saving = button("Save", "Save the drawing as a PNG file", () =>
    make("a", { href: layer.toDataURL(), download: `${model.get("mode")}.png` }).click());
  const closer = button("+", "Zoom in (Ctrl+wheel, or two fingers)", () => zoomBy(1.5));
  const further = button("−", "Zoom out", () => zoomBy(1 / 1.5)), scale = make("output");
  const sliders = [slider("brush", "Size", 1, Math.round(Math.min(width, height) / 2), 0.5)];
  if (model.get("softens")) sliders.push(slider("feather", "Feather", 0, Math.round(Math.min(width, height) / 8), 0.25));
  sliders.push(slider("opacity", "Opacity", 0, 1, 0.05));
  const note = make("div", { className: "note", role: "alert" });
  const bar = (...nodes) => make("div", { className: "bar" }, nodes);
  const colours = masking ? [] : [bar(colour, picker, swatches)];
  const root = make("div", { className: "drawing-canvas", tabIndex: 0 }, [
    bar(...tools.map(([, node]) => node), eraser, undoing, redoing, ...(masking ? [inverting] : []), clear),
    ...colours,
    frame,
    bar(...sliders.map(({ node }) => node)),
    bar(further, scale, closer, opening, saving, file),
    note,
  ]);
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take Ctrl+Z, B, ... for itself
  root.addEventListener("keydown", (event) => {
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    const tool = TOOLS.find(([, , letter]) => letter === key)?.[0];
    if (command && key === "z") event.shiftKey ? redo() : undo();
    else if (command && key === "y") redo();
    else if (command || event.altKey) return;
    else if (tool) set("tool", tool);
    else if (key === "e") set("erase", !model.get("erase"));
    else if (key === "i" && masking) invert();
    else if (key === "[" || key === "]") set("brush", Math.max(1, model.get("brush") * (key === "]" ? 1.25 : 0.8)));
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const paint = () => {
    swatches.replaceChildren(...model.get("palette").map((value) => {
      const swatch = button("", value, () => set("colour", value));
      swatch.style.background = value;
      return swatch;
    }));
  };
  const place = () => {
    photo.src = model.get("background");
    photo.hidden = !model.get("background");
  };
  const refresh = () => {
    for (const [name, node] of tools) node.ariaPressed = model.get("tool") === name;
    eraser.ariaPressed = model.get("erase");
    picker.ariaPressed = picking;
    undoing.disabled = !past.length;
    redoing.disabled = !future.length;
    colour.value = model.get("colour");
    scale.value = `${Math.round(100 * zoom)} %`;
    note.textContent = model.get("message");
    sliders.forEach(({ read }) => read());
  };
  const orders = { undo, redo };
  const events = {
    "change:layer": load, "change:background": place, "change:palette": paint, "change:feather": show,
    "change:opacity": show, "msg:custom": (message) => orders[message.do]?.(),
  };
  for (const name of ["tool", "erase", "brush", "colour", "message", "feather", "opacity"])
    model.on(`change:${name}`, refresh);
  for (const [name, handler] of Object.entries(events)) model.on(name, handler);
  frame.style.width = `${model.get("screen_width")}px`;
  frame.style.aspectRatio = stage.style.aspectRatio = `${width} / ${height}`;
  el.append(root);
  place(), paint(), show(), refresh();
  load();
  return () => {
    for (const name of ["tool", "erase", "brush", "colour", "message", "feather", "opacity"])
      model.off(`change:${name}`, refresh);
    for (const [name, handler] of Object.entries(events)) model.off(name, handler);
  };
}
export default { render };
