/** What engines are to know of a place and of a site. */
import type { FileOffset } from '../base/address.js';
import type { Refusal } from '../base/errors.js';
import type { Displaced, Instruction, SlotTemplate } from '../arch/arch.js';
import type { ArmableSite, ModuleFacts, SiteFacts } from '../engines/engine.js';
import type { CodeFile } from './code-file.js';
import type { ResolvedPlace } from './place.js';

/**
 * How its instruction runs out of line is found out when it is asked for: not every engine does, and it takes longer than the rest. A
 * class, and getters of it: there may be a hundred thousand places.
 */
export class PlaceFacts implements ArmableSite {
  readonly instruction: Instruction;
  readonly atEntry: boolean;
  readonly next: Instruction | undefined;
  readonly #code: Pick<CodeFile, 'displace' | 'forbids'>;
  #displaced: Displaced | undefined;

  constructor({ instruction, atEntry, next }: ResolvedPlace, code: Pick<CodeFile, 'displace' | 'forbids'>) {
    this.instruction = instruction;
    this.atEntry = atEntry;
    this.next = next;
    this.#code = code;
  }

  get forbidden(): Refusal | undefined {
    return this.#code.forbids(this.instruction);
  }
  get template(): SlotTemplate | undefined {
    const found = this.#found;
    return found.ok ? found.template : undefined;
  }
  get refusal(): Refusal | undefined {
    const found = this.#found;
    return found.ok ? undefined : found.refusal;
  }
  get #found(): Displaced {
    return (this.#displaced ??= this.#code.displace(this.instruction));
  }
}

export class FactsOfSite extends PlaceFacts implements SiteFacts {
  readonly id: number;
  readonly module: ModuleFacts;
  readonly offset: FileOffset;

  constructor(
    id: number,
    module: ModuleFacts,
    place: ResolvedPlace,
    code: Pick<CodeFile, 'displace' | 'forbids'>,
  ) {
    super(place, code);
    this.id = id;
    this.module = module;
    this.offset = place.offset;
  }
}
