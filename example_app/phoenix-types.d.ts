// Written by `flask phoenix types`; to change it, change the channels.
import type { Channel, Push, Socket } from "phoenix";

/** The response of an error reply; `errors` where the payload was of another type than the declared one. */
export interface Refusal {
  reason?: string;
  errors?: { path: string; message: string }[];
  [field: string]: any;
}

/** What the reply to a join with `since` says of the client's position. */
export interface Recovery {
  recovered: boolean;
  epoch: string;
  offset: number;
  missed: number;
  ref: string;
  sender: string;
}

/** What is declared of a family of topics. */
export interface Contract {
  join: { payload: any; reply: any };
  pushes: { [event: string]: { payload: any; reply: any } };
  events: { [event: string]: any };
}

type Names<T> = keyof T & string;
type Sendable<P> = (P & object) | (() => P & object);
type Arguments<P> = {} extends P & object ? [params?: Sendable<P>] : [params: Sendable<P>];

export interface TypedPush<Response> extends Omit<Push, "receive"> {
  receive(status: "ok", callback: (response: Response) => any): this;
  receive(status: "error", callback: (response: Refusal) => any): this;
  receive(status: "timeout", callback: () => any): this;
}

export interface TypedChannel<C extends Contract> extends Omit<Channel, "join" | "on" | "push"> {
  join(timeout?: number): TypedPush<C["join"]["reply"] & { phx_history?: Recovery }>;
  on<E extends Names<C["events"]>>(event: E, callback: (payload: C["events"][E], ref?: string) => any): number;
  push<E extends Names<C["pushes"]>>(
    event: E,
    payload: C["pushes"][E]["payload"] & object,
    timeout?: number,
  ): TypedPush<C["pushes"][E]["reply"]>;
}

export interface PresenceState {
  [key: string]: { metas: ({ phx_ref: string } & { [field: string]: any })[]; [field: string]: any };
}

export interface PresenceDiff {
  joins: PresenceState;
  leaves: PresenceState;
}

/** A flame has brought embers to the hearth. */
export interface Fed {
  number: number;
  embers: number;
}

/** Somebody who wants to play: the colour of the flame, in degrees, and what it was told when it was here before. */
export interface Newcomer {
  hue: number;
  token?: string;
}

/** Where a flame wants to go: right and down, each as a share of full speed. */
export interface Steer {
  x: number;
  y: number;
}

/** What a newcomer is told: the own number in the frames, the process that serves this page, and a proof. */
export interface Welcome {
  number: number;
  worker: number;
  token: string;
}

/** One tab of one person in one room. */
export interface RoomChannelContract {
  join: { payload: any; reply: Record<string, number> };
  pushes: {
    /** Keep a message, tell everybody, and answer its sender with its id. */
    new_msg: { payload: any; reply: Record<string, string> };
    /** Tell everybody that this tab is away, or that a message is on its way, or neither any more. */
    status: { payload: any; reply: any };
  };
  events: {
    [event: string]: any;
  };
}

/** One page that shows the map. */
export interface MapChannelContract {
  join: { payload: any; reply: Record<string, number> };
  pushes: {};
  events: {
    [event: string]: any;
  };
}

/** One tram line on one page: its trams broadcast here, from another process (``trams.py``). */
export interface LineChannelContract {
  join: { payload: any; reply: {} };
  pushes: {};
  events: {
    [event: string]: any;
  };
}

/** One page that plays. */
export interface GameChannelContract {
  join: { payload: Newcomer; reply: Welcome };
  pushes: {
    /** Go elsewhere; there is no reply, as the frames show it. */
    steer: { payload: Steer; reply: any };
  };
  events: {
    fed: Fed;
    frame: ArrayBuffer;
    presence_state: PresenceState;
    presence_diff: PresenceDiff;
  };
}

/** The topics of /socket. */
export type UserSocketTopic = `room:${string}` | "map" | `map:${string}` | "game";

export type UserSocketContracts<Topic extends string> =
  Topic extends `room:${string}` ? RoomChannelContract :
  Topic extends "map" ? MapChannelContract :
  Topic extends `map:${string}` ? LineChannelContract :
  Topic extends "game" ? GameChannelContract :
  never;

/** The parameters of a connect. */
export type UserSocketParams = Record<string, any>;

/** One browser. */
export interface UserSocket extends Omit<Socket, "channel"> {
  channel<Topic extends UserSocketTopic>(
    topic: Topic,
    ...params: Arguments<UserSocketContracts<Topic>["join"]["payload"]>
  ): TypedChannel<UserSocketContracts<Topic>>;
}
