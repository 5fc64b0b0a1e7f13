import { render } from "preact";
import { start } from "./live";
import { App } from "./panels/App";
import "./style.css";

render(<App />, document.getElementById("page")!);
start();
