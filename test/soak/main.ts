/** npm run soak -- [MINUTES=5] [SEED]: rounds of everything at once until the time is over. Ends with 1 at the first wrong one. */
import { soak } from './soak.js';

const [minutes = '5', seed = String(Date.now() % 1_000_000)] = process.argv.slice(2);
console.log(`soak for ${minutes} minutes, seed ${seed}`);
try {
  const sum = await soak({
    seed: Number(seed),
    ms: Number(minutes) * 60_000,
    say: (line) => console.log(line),
  });
  console.log(`all right: ${JSON.stringify(sum)}`);
} catch (e) {
  console.error(e);
  process.exit(1);
}
