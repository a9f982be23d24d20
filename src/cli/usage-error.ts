/** The user's words are wrong: one message, exit status 2, nothing touched. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
