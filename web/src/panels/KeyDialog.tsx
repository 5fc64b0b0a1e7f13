import { useEffect, useRef } from "preact/hooks";
import { refusal, useKey } from "../session";

/** Asks for the key: at the first visit, and when the one there is refused. */
export function KeyDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const why = refusal.value;
  useEffect(() => {
    if (why !== null && !dialog.current!.open) dialog.current!.showModal();
    if (why === null) dialog.current!.close();
  }, [why]);
  return (
    <dialog ref={dialog} aria-labelledby="key-title" onCancel={(event) => event.preventDefault()}>
      <form onSubmit={(event) => {
        event.preventDefault();
        useKey(field.current!.value);
      }}>
        <h2 id="key-title">API key</h2>
        {why ? <p class="error" role="alert">{why}</p> : null}
        <p>It stays in this browser and goes to this server alone. <code>flowtape keys create</code> makes one.</p>
        <label for="key">API key</label>
        <input id="key" ref={field} type="password" autocomplete="off" spellcheck={false} maxLength={200} required />
        <button type="submit">Use key</button>
      </form>
    </dialog>
  );
}
