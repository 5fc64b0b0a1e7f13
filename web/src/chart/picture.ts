// The chart as a picture to pass on: with what it shows, of when, in which unit and under which filters.
import { colour } from "./chart";

export interface Caption {
  title: string;
  lines: string[];
  /** Colours of the drawn series by their names. */
  legend: [string, string][];
}

const FONT = "system-ui, sans-serif";
const ROW = 20;
const EDGE = 14;

/** A PNG of the chart under its caption. */
export async function captioned(chart: HTMLCanvasElement, caption: Caption): Promise<Blob> {
  const ratio = devicePixelRatio;
  const width = chart.width / ratio;
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d")!;
  const measured = (text: string, font: string): string[] => {
    context.font = font;
    return wrapped(text, width - 2 * EDGE, (part) => context.measureText(part).width);
  };
  const title = measured(caption.title, `600 16px ${FONT}`);
  const lines = caption.lines.flatMap((line) => measured(line, `13px ${FONT}`));
  context.font = `13px ${FONT}`;
  const entries = placed(caption.legend, width - EDGE, (text) => context.measureText(text).width);
  const rows = title.length + lines.length + 1 + (entries.at(-1)?.row ?? 0);
  const head = EDGE + rows * ROW + EDGE / 2;
  canvas.width = chart.width;
  canvas.height = chart.height + Math.ceil(head * ratio);
  context.scale(ratio, ratio);
  context.fillStyle = colour("ground");
  context.fillRect(0, 0, width, canvas.height / ratio);
  context.textBaseline = "top";
  let y = EDGE;
  const write = (texts: string[], font: string, color: string): void => {
    [context.font, context.fillStyle] = [font, color];
    for (const text of texts) {
      context.fillText(text, EDGE, y);
      y += ROW;
    }
  };
  write(title, `600 16px ${FONT}`, colour("text"));
  write(lines, `13px ${FONT}`, colour("quiet"));
  legend(context, entries, y);
  context.drawImage(chart, 0, head, width, chart.height / ratio);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The browser could not make the picture.")))),
  );
}

interface Entry {
  name: string;
  color: string;
  x: number;
  row: number;
}

/** Where the entries of the legend stand: in as many rows as they need. */
function placed(legend: [string, string][], most: number, widthOf: (text: string) => number): Entry[] {
  let [x, row] = [EDGE, 0];
  return legend.map(([name, color]) => {
    const width = 36 + widthOf(name);
    if (x > EDGE && x + width > most) [x, row] = [EDGE, row + 1];
    const entry = { name, color, x, row };
    x += width;
    return entry;
  });
}

function legend(context: CanvasRenderingContext2D, entries: Entry[], y: number): void {
  context.font = `13px ${FONT}`;
  for (const { name, color, x, row } of entries) {
    context.fillStyle = color;
    context.fillRect(x, y + row * ROW + 6, 14, 3);
    context.fillStyle = colour("text");
    context.fillText(name, x + 20, y + row * ROW);
  }
}

function wrapped(text: string, most: number, widthOf: (part: string) => number): string[] {
  const rows: string[] = [];
  for (const word of text.split(" ")) {
    const longer = rows.length ? `${rows.at(-1)} ${word}` : word;
    if (rows.length && widthOf(longer) <= most) rows[rows.length - 1] = longer;
    else rows.push(word);
  }
  return rows;
}
