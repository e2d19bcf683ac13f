// Looks for what is wrong with a page, as it is laid out, and returns it as a list of texts. WIDTH is the window's.
(() => {
  const found = [];
  const complain = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const everything = [...document.body.querySelectorAll("*:not(.skip):not(script):not(noscript)")];
  const background = (element) => {
    const own = element ? getComputedStyle(element).backgroundColor : "rgb(255, 255, 255)";
    return /^rgba\(.*, 0\)$/.test(own) ? background(element.parentElement) : own;
  };
  // WCAG 2.2: relative luminance and contrast ratio.
  const luminance = (color) => {
    const [red, green, blue] = color.match(/[\d.]+/g).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (color, element, behind = background(element)) => {
    const [light, dark] = [luminance(color), luminance(behind)].sort((a, b) => b - a);
    return /^rgba/.test(color) ? 0 : (light + 0.05) / (dark + 0.05);
  };
  const covers = (box, { left, right, top, bottom }) => {
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    return box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
  };
  // The color around the text of a drawing: of its outline, of the shape of its group, or of the page.
  const around = (text) => {
    const style = getComputedStyle(text), place = text.getBoundingClientRect();
    if (style.paintOrder.startsWith("stroke") && style.stroke !== "none") return style.stroke;
    const shapes = [...text.ownerSVGElement.querySelectorAll("rect, circle")];
    const own = shapes.filter((shape) => shape.parentNode === text.parentNode && shape.parentNode.nodeName === "g");
    const behind = own.find((shape) => covers(shape.getBoundingClientRect(), place));
    if (behind) return getComputedStyle(behind).fill;
    const isPainted = (shape) => getComputedStyle(shape).fill !== "rgba(0, 0, 0, 0)";
    const other = shapes.find((shape) => isPainted(shape) && covers(shape.getBoundingClientRect(), place));
    if (other) complain("text without an outline on a shape", text);
    return background(text);
  };
  // The box around an element that scrolls sideways.
  const scroller = (element) => element && element !== document.body
    && (/auto|scroll/.test(getComputedStyle(element).overflowX) ? element : scroller(element.parentElement));

  // Nothing sticks out, of the window or of what it is in.
  if (document.documentElement.scrollWidth > WIDTH) found.push(`it scrolls: ${document.documentElement.scrollWidth}`);
  for (const element of everything.filter((element) => element.getClientRects().length)) {
    const { left, right } = element.getBoundingClientRect(), style = getComputedStyle(element);
    const box = scroller(element);
    if (!(box && box !== element) && (left < -0.5 || right > WIDTH + 0.5)) complain(`from ${left} to ${right}`, element);
    const isBox = element instanceof HTMLElement && style.display !== "inline" && style.textOverflow !== "ellipsis";
    const isFull = isBox && element.scrollWidth > element.clientWidth + 1;
    if (isFull && box !== element) complain("more in it than fits", element);
    if (isFull && box === element && element.tabIndex < 0) complain("scrolls without a keyboard", element);
  }

  // All text can be read, all drawings can be seen.
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
    const isDrawn = element instanceof SVGElement, style = getComputedStyle(element);
    const ratio = isDrawn ? contrast(style.fill, element, around(element)) : contrast(style.color, element);
    if (ratio < 4.5) complain(`contrast of text ${ratio.toFixed(2)}`, element);
    if (parseFloat(style.fontSize) < 12) complain("small text", element);
  }
  for (const control of document.querySelectorAll("input")) {
    if (control.getClientRects().length && contrast(getComputedStyle(control).color, control) < 4.5) {
      complain("contrast of a control", control);
    }
  }
  for (const drawing of document.querySelectorAll("svg")) {
    const labels = [...drawing.querySelectorAll(":scope > text, :scope > g > text")]
      .filter((label) => label.getClientRects().length && label.textContent);
    const boxes = labels.map((label) => label.getBoundingClientRect());
    boxes.forEach((a, at) => boxes.slice(0, at).forEach((b) => {
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 0 && height > 3) complain("text on text", labels[at]);
    }));
  }
  for (const [shapes, property] of [["svg.icon", "color"], [".bars, .done, .least", "fill"]]) {
    for (const shape of document.querySelectorAll(shapes)) {
      const ratio = contrast(getComputedStyle(shape)[property], shape);
      if (ratio < 3) complain(`contrast of a shape ${ratio.toFixed(2)}`, shape);
    }
  }

  // Headings are in order, names lead somewhere, and drawings are either decoration or have a text.
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1 || !heading.textContent.trim()) complain(`heading after level ${level}`, heading);
    level = next;
  }
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  const ids = new Set();
  for (const { id } of document.querySelectorAll("[id]")) {
    if (ids.has(id)) found.push(`twice: ${id}`);
    ids.add(id);
  }
  for (const element of document.querySelectorAll("[aria-labelledby], a[href^='#']")) {
    const names = element.getAttribute("aria-labelledby") ?? element.getAttribute("href").slice(1);
    for (const name of names.split(" ")) {
      if (!document.getElementById(name)?.textContent.trim()) complain(`leads nowhere: ${name}`, element);
    }
  }
  for (const drawing of document.querySelectorAll("svg")) {
    const isSilent = drawing.getAttribute("aria-hidden") === "true";
    if (isSilent === (drawing.getAttribute("role") === "img")) complain("decoration, or a drawing?", drawing);
  }
  return found;
})()
