// Who is in the call, as the server tells it. A model without a view.

const LOUD = 0.01; // about -40 dB: what plays is a voice
const HOLD_MS = 300; // between two words a voice does not stop

/** Events: "change" whenever somebody came, left, speaks or changed state; "joined" and "left" with that person. */
export class Roster extends EventTarget {
  me = null;
  #people = new Map();
  #heardAt = -Infinity;
  #heard = false;

  /** Start anew with the server's welcome. */
  begin(welcome) {
    this.me = { participant_id: welcome.participant_id, user_id: welcome.user_id, name: welcome.name, role: welcome.role };
    this.#people.clear();
    for (const session of welcome.sessions ?? []) this.#expect(session);
    this.#changed();
  }

  clear() {
    this.#people.clear();
    this.#changed();
  }

  get agents() {
    return [...this.#people.values()].filter((person) => person.is_agent);
  }

  get others() {
    return [...this.#people.values()].filter((person) => !person.is_agent);
  }

  /** The first agent that is here, else one that is still joining. */
  get agent() {
    return this.agents.find((agent) => agent.here) ?? this.agents[0] ?? null;
  }

  find(participantId) {
    return this.#people.get(participantId) ?? null;
  }

  /** A name to show for whoever said something. */
  nameOf({ participant_id, agent_id, user_id, role }) {
    if (role === "assistant") return this.find(agent_id)?.name ?? this.agent?.name ?? "Agent";
    if (this.isMe({ participant_id, user_id })) return "You";
    const byUser = this.others.find((person) => person.user_id === user_id);
    return this.find(participant_id)?.name ?? byUser?.name ?? user_id ?? "Somebody";
  }

  isMe({ participant_id, user_id }) {
    if (participant_id) return participant_id === this.me?.participant_id;
    // One user can be here twice; then this tells no difference, and nothing better is known.
    return user_id === this.me?.user_id;
  }

  presence(message) {
    if (message.participant_id === this.me?.participant_id) return;
    const before = this.#people.get(message.participant_id);
    if (!message.here) {
      this.#people.delete(message.participant_id);
      if (before?.here) this.#emit("left", before);
      this.#changed();
      return;
    }
    const { session = before?.session ?? null } = message;
    const person = { state: "listening", speaking: false, ...before, ...message, session };
    if (!before?.here && person.is_agent) person.state = "listening";
    this.#people.set(person.participant_id, person);
    if (!before?.here) this.#emit("joined", person);
    this.#changed();
  }

  speaking({ participant_id, speaking }) {
    if (participant_id === this.me?.participant_id) this.me.speaking = speaking;
    const person = this.find(participant_id);
    if (person) person.speaking = speaking;
    this.#changed();
  }

  state(agentId, state) {
    const agent = this.find(agentId);
    if (!agent || agent.state === state) return;
    agent.state = state;
    this.#changed();
  }

  /** What this page plays, from the analyser: what really sounds decides who is shown as speaking. */
  heard(level) {
    const now = performance.now();
    if (level > LOUD) this.#heardAt = now;
    const heard = now - this.#heardAt < HOLD_MS;
    if (heard === this.#heard) return;
    this.#heard = heard;
    this.#changed();
  }

  /** The agent's state to show: joining, waiting, listening, thinking or speaking. */
  stateOf(agent) {
    if (!agent.here) return "joining";
    // All comes in one mix: what sounds is surely the agent's only where nobody else is.
    const alone = this.agents.length === 1 && this.others.length === 0;
    if (agent.speaking || (this.#heard && alone)) return "speaking";
    return agent.state;
  }

  /** Whether the level of what plays is this one's: all come in one mix. */
  isAudible(person) {
    return person.is_agent ? this.stateOf(person) === "speaking" : Boolean(person.speaking);
  }

  ended(sessionId) {
    for (const agent of this.agents) {
      if (agent.session?.session_id !== sessionId) continue;
      this.#people.delete(agent.participant_id);
      if (agent.here) this.#emit("left", agent);
    }
    this.#changed();
  }

  #expect(session) {
    const id = session.agent_id || session.session_id;
    const name = session.agent_name || session.agent;
    this.#people.set(id, { participant_id: id, name, is_agent: true, here: false, state: "waiting", speaking: false, session });
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
