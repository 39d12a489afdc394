// Standard input: {library, questions: [{model, ids, count, texts}]}. For each question, writes
// llama.cpp's logits after each of `ids` (when count is 0), or its `count` greedy ids after them,
// and its own ids of each text.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const {library, questions} = JSON.parse(fs.readFileSync(0, "utf-8"));
const entry = path.join(library, "node_modules", "node-llama-cpp", "dist", "index.js");
const {getLlama} = await import(pathToFileURL(entry).href);
const llama = await getLlama({build: "never", gpu: false, maxThreads: 1, logLevel: "warn", progressLogs: false});

async function greedy(sequence, ids, count) {
    const found = [];
    const options = {temperature: 0, yieldEogToken: true};
    for await (const id of sequence.evaluate(ids, options)) {
        found.push(id);
        if (found.length === count)
            break;
    }
    return found;
}

async function logits(sequence, ids) {
    const generateNext = {token: true, logits: true, options: {temperature: 0}};
    const outputs = await sequence.controlledEvaluate(ids.map((id) => [id, {generateNext}]));
    return outputs.map(({next}) => [...next.logits].sort(([a], [b]) => a - b).map((pair) => pair[1]));
}

async function answer({model: modelPath, ids, count, texts}) {
    const model = await llama.loadModel({modelPath});
    const result = {texts: texts.map((text) => model.tokenize(text, true))};
    if (ids.length > 0) {
        const context = await model.createContext({
            contextSize: ids.length + count + 8,
            experimentalKvCacheKeyType: "F32",
            experimentalKvCacheValueType: "F32",
            flashAttention: false,
            threads: 1
        });
        const sequence = context.getSequence();
        result.greedy = count > 0 ? await greedy(sequence, ids, count) : [];
        result.logits = count > 0 ? [] : await logits(sequence, ids);
        await context.dispose();
    }
    await model.dispose();
    return result;
}

const answers = [];
for (const question of questions)
    answers.push(await answer(question));
process.stdout.write("\nANSWERS " + JSON.stringify(answers) + "\n", () => process.exit(0));
