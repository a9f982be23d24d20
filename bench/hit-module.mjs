// What bench/hit.ts does, as a probe module.
import { probeModule, registerUprobe } from 'uprobe';

export default probeModule({
  parameters: { path: { type: 'string' } },
  async load({ processes, parameters, print }) {
    const probe = await registerUprobe({
      pathname: parameters.path,
      symbol: 'probe_me_push',
      processes,
      preHandler: () => undefined,
    });
    return () => print(`${probe.nhits} hits, ${probe.nmissed} missed`);
  },
});
