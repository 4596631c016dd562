import { Channel, Socket } from "phoenix"

/** What the reply to a join says of the client's position. */
export interface Recovery {
  recovered: boolean
  epoch: string
  offset: number
  missed: number
  ref: string
  sender: string
}

export interface Options {
  /** Some messages are lost; called before the join's own callbacks. */
  onGap?: (told: Recovery) => void
  /** None is lost; `told.missed` messages follow. */
  onCaughtUp?: (told: Recovery) => void
}

/** Make a channel that tells the server the last message that it has got, at each join. */
export function recover(socket: Socket, topic: string, params?: object | (() => object), options?: Options): Channel
